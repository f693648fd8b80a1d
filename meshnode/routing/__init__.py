"""Who should run a task: pure functions over facts and beliefs."""
