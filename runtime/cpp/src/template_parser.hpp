// A chat template as a function.
#pragma once

#include <string>

#include "template_value.hpp"

namespace ovround {

// Writes the template's text into a Rendering. Throws Error(artifact), naming the line, for what cannot be read.
Statement parse_template(const std::string& source);

}  // namespace ovround
