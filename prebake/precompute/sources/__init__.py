"""Sources of images and labels. Each file is one kind of source."""
