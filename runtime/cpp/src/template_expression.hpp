// The expressions of a chat template, as functions.
#pragma once

#include "template_cursor.hpp"
#include "template_value.hpp"

namespace ovround {

// The expression at `cursor`, which is left behind it. Throws Error(artifact), naming the line, for what cannot be
// read.
Expression parse_expression(Cursor& cursor);

// The same without a conditional on the outside, whose `if` is that of a loop.
Expression parse_unconditional(Cursor& cursor);

}  // namespace ovround
