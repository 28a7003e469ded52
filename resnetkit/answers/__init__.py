"""From logits to a `Prediction`: loaded models, top-k answers, smoothing, heat maps, drawing."""
