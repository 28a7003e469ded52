"""What a training or evaluation is told by: metrics, charts, pictures, the report page."""
