"""The embedded demo data: images and labelled clips made from photographs inside installed packages."""
