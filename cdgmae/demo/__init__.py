"""The embedded demo data: pictures and labelled clips made from photographs inside installed packages."""
