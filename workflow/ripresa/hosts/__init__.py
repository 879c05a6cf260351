"""Units on the hosts of an inventory: the agent that runs there, what is shipped to it, and who calls it."""
