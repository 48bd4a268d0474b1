"""ImageNet backbones cut into named feature maps."""
