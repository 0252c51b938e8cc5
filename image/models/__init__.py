"""DeiT and LV-ViT, plain and resizable."""
