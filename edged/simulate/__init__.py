"""What a policy would do with a workload: the production engine loop on a manual clock."""
