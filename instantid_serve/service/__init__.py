"""The business rules: jobs, tenants, results, and the dispatcher that drives them. No Ray, no HTTP, no tensors."""
