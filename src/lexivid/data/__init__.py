"""What is trained on: manifests, splits, the loader with its cache, augmentation."""
