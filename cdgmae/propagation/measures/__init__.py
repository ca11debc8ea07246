"""What propagated labels are measured by."""
