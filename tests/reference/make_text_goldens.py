"""Generator of words_golden.json and repair_golden.json in tests/data with transformers.

python -m tests.reference.make_text_goldens
"""

import json
import random
from pathlib import Path

import numpy as np
from transformers.models.qwen3_asr.processing_qwen3_asr import Qwen3ASRProcessor, _fix_timestamps

DATA = Path(__file__).parent.parent / "data"

TEXTS = [
    *("", "   ", "...", "。！？", "''", "rock ' n ' roll", "😀 fun 😀", "½ ⅷ ² ①"),
    *("Hello, world!", "re-run the well-known test", "It's John's, don't.", "don’t “quote” me"),
    *("hello -- world - yes", "$5, 5€ & 50% @home #1 a_b", "3.14 and 1,000 or 2024-05-01"),
    *(
        "你好，世界。",
        "我用iPhone 15拍照，很OK！",
        "中-a a-中 (中) 中a中",
        "one two three 零一二三",
    ),
    *("価格は￥500です。", "東京タワーへ行った！", "カタカナとひらがな", "々〆ヶ〇"),
    *("안녕하세요, 오늘은 날씨가 좋네요!", "Bonjour ! Ça va ? « Oui »", "¿Qué tal? ¡Hola!"),
    *("Straße, Ärger und Öl.", "Привет, как дела?", "नमस्ते दुनिया", "สวัสดีครับ", "Việt Nam"),
    *("مرحبا بالعالم؟", "e\u0301te\u0301", "a\u00a0b\u3000c\td\ne\u200bf", "A\x1cB\x85C"),
    *("\u9fff\u4dbf\u4e00\u3400", "\U00020000\U0002a700\U0002b740\U0002b820\uf900\U0002f800"),
]
ALPHABET = "ab Z9'’.,-!?\"()«“¡ \u3000中文。，《》ーかカ한\u0301é½\n"

SLOTS = [
    *([5], [1, 0], [0, 0], [3, 2, 1], [1, 2, 3, 0, 0, 0, 0, 10], [2, 1, 2, 1, 2, 1]),
    *([80, 160, 160, 320], [400, 80], [0, 800, 80, 160, 240, 320], [800, 0, 0, 0, 0, 80]),
    *([80, 80, 2000, 2000, 2000, 160, 240], [0, 9000, 8000, 7000, 6000, 400]),
]


def make_words() -> None:
    """Write the words of chosen examples and of random strings, in this order."""
    rng = random.Random(1)
    texts = TEXTS + ["".join(rng.choices(ALPHABET, k=rng.randint(3, 24))) for _ in range(60)]
    split = Qwen3ASRProcessor.split_words_for_alignment  # does not use `self`
    cases = [{"text": text, "words": split(None, text)} for text in texts]
    _write("words_golden.json", cases)


def make_repair() -> None:
    """Write the repair of chosen examples and of ordered slots with random faults."""
    rng = random.Random(2)
    cases = SLOTS + [_faulty_slots(rng) for _ in range(150)]
    repaired = [_fix_timestamps(np.asarray(slots, np.float32)) for slots in cases]
    pairs = zip(cases, repaired, strict=True)
    _write("repair_golden.json", [{"slots": slots, "repaired": fixed} for slots, fixed in pairs])


def _faulty_slots(rng: random.Random) -> list[int]:
    labels = sorted(rng.randrange(60) for _ in range(2 * rng.randint(1, 20)))
    for _ in range(rng.randint(0, len(labels))):
        labels[rng.randrange(len(labels))] = rng.randrange(80)
    return [80 * label for label in labels]


def _write(name: str, cases: list[dict[str, object]]) -> None:
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (DATA / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    make_words()
    make_repair()
