"""Train ResNet image classifiers in Ikomia workflows."""
