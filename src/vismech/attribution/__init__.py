"""Attribution along paths between layers: quadrature, targets, GIG, aggregation."""
