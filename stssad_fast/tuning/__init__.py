"""The bilevel loop: one step, one start, all starts, and the density that scores."""
