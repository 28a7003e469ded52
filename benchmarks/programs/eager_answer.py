"""Classify one image file in eager PyTorch and end: what a plain script does."""

import json
import sys

import torch
from PIL import Image
from torchvision import models, transforms

image_path, weights, class_file, model_name = sys.argv[1:]
model = models.get_model(model_name, weights=None)
model.load_state_dict(torch.load(weights, weights_only=True))
model.eval()
normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
transform = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), normalize])
with torch.no_grad():
    probabilities = model(transform(Image.open(image_path).convert("RGB"))[None]).softmax(1)[0]
with open(class_file, encoding="utf-8") as lines:  # noqa: PTH123 - nothing is imported that needs not be
    classes = lines.read().splitlines()
print(json.dumps({"label": classes[int(probabilities.argmax())]}))
