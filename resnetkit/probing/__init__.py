"""The last layer solved to its optimum on the features of a frozen backbone."""
