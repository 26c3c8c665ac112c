// Compiles the expressions of a chat template to functions.
#pragma once

#include "template_cursor.hpp"
#include "template_value.hpp"

namespace ovround {

// Compiles the expression at `cursor` and moves past it. Throws Error(artifact) that names the line if it cannot be
// parsed.
Expression parse_expression(Cursor& cursor);

// The same without a top-level conditional, because the `if` belongs to a loop.
Expression parse_unconditional(Cursor& cursor);

}  // namespace ovround
