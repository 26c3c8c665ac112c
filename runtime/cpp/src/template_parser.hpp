// Compiles a chat template to a function.
#pragma once

#include <string>

#include "template_value.hpp"

namespace ovround {

// Writes the template's text into a Rendering. Throws Error(artifact) that names the line if it cannot be parsed.
Statement parse_template(const std::string& source);

}  // namespace ovround
