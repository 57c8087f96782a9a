"""One forward pass, number by number: the steps of a network (steps), the outputs of all of them for one picture
(trace), and the arithmetic of a single number (unit_arithmetic, by rules for each kind of operation)."""
