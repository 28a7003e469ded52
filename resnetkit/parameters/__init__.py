"""What users may set, declared once: checked, turned into strings and back, shown in tables and forms."""
