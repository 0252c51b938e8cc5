"""DeiT, LV-ViT and As-ViT, plain and resizable."""
