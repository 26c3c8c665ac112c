// minimal FOLDER PROMPT: prints one answer.
#include <iostream>
#include <ovround/ovround.hpp>

int main(int count, char** values) {
    if (count != 3) {
        std::cerr << "usage: minimal FOLDER PROMPT\n";
        return 2;
    }
    try {
        ovround::LLM llm(values[1]);
        ovround::SamplingOptions options;
        options.max_new_tokens = 32;
        std::cout << llm.generate(values[2], options).text << '\n';
    } catch (const ovround::Error& error) {
        std::cerr << "error: " << error.what() << "\nhint: " << error.hint() << '\n';
        return 1;
    }
}
