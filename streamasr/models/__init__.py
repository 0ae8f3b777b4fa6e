"""Model families, one folder each; the registry of them; bundles; and the opening of graphs."""
