"""Make src/lexivid/backbones/lite_classes.safetensors again: the 1,000 class vectors of `lite` (see its SOURCES.md)."""

from lexivid.backbones.lite import write_class_vectors

if __name__ == "__main__":
    write_class_vectors()
