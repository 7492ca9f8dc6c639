"""The layers of the library (docs/architecture.md), as data."""

# From the top down. A module imports from its own layer and from those below it.
LAYERS = (
    {"cli", "__main__", "demo"},
    {"synthetic"},
    {"evaluation"},
    {"training"},
    {"inference"},
    {"scoring"},
    {"models"},
    {"labels", "data"},
    {"backbones"},
    {"media"},
    {"metrics"},
    {"base", "errors"},
)
