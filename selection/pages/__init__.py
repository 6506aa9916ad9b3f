"""The atlas: one page, without a network, on which the tasks of a store can be seen, compared and searched."""
