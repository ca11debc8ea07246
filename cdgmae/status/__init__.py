"""What a workflow has done, does and has still to do, told from its files alone, also beside a running one."""
