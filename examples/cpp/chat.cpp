// chat FOLDER: holds a streamed conversation until the input ends.
#include <iostream>
#include <ovround/ovround.hpp>

int main(int count, char** values) {
    if (count != 2) {
        std::cerr << "usage: chat FOLDER\n";
        return 2;
    }
    try {
        ovround::LLM llm(values[1]);
        ovround::SamplingOptions options;
        options.max_new_tokens = 128;
        options.temperature = 0.7;
        std::vector<ovround::Message> messages;
        for (std::string line; std::cout << "> " && std::getline(std::cin, line);) {
            messages.push_back({"user", line});
            const auto answer = llm.chat(messages, options, [](const ovround::Piece& piece) {
                std::cout << piece.text << std::flush;
                return true;  // false would stop the answer here
            });
            std::cout << '\n';
            messages.push_back({"assistant", answer.text});
        }
    } catch (const ovround::Error& error) {
        std::cerr << "error: " << error.what() << "\nhint: " << error.hint() << '\n';
        return 1;
    }
}
