// ovround-pipeline FOLDER: tests errors, cancellation, threads and the C API with a model.
#include <atomic>
#include <fstream>
#include <thread>

#include "check.hpp"
#include "leaks.hpp"

extern "C" int check_c_api(const char* folder);

namespace {

using namespace ovround;
namespace fs = std::filesystem;

constexpr const char* kPrompt = "Return the number of";

SamplingOptions drawn(int64_t tokens) {
    SamplingOptions options;
    options.max_new_tokens = tokens;
    options.ignore_eos = true;
    options.temperature = 0.8;
    options.seed = 7;
    return options;
}

void refuses_what_cannot_be(const fs::path& folder, LLM& llm) {
    CHECK(refused([] { LLM("/nowhere"); }, "`/nowhere` does not exist") == ErrorCode::artifact);
    LoadOptions wrong;
    wrong.device = "NONE";
    CHECK(refused([&] { LLM(folder, wrong); }, "device `NONE` is not there") == ErrorCode::engine);
    wrong.device = "CPU";
    wrong.threads = -1;
    CHECK(refused([&] { LLM(folder, wrong); }, "threads is -1") == ErrorCode::usage);
    wrong = {};
    wrong.tokenizers_library = "/nowhere/lib.so";
    CHECK(refused([&] { LLM(folder, wrong); }, "`/nowhere/lib.so` cannot be loaded") == ErrorCode::engine);
    CHECK(refused([&] { llm.generate_ids({}); }, "no tokens") == ErrorCode::generation);
    CHECK(refused([&] { llm.generate_ids({int64_t{1} << 40}); }, "the vocabulary has 0 to") == ErrorCode::generation);
    CHECK(refused([&] { llm.generate_ids({int64_t{-1}}); }, "token id -1") == ErrorCode::generation);
    CHECK(refused([&] { llm.generate(kPrompt, drawn(INT64_MAX)); }, "the model's context is") == ErrorCode::generation);
    CHECK(refused([&] { llm.generate("\xC3("); }, "not UTF-8") == ErrorCode::usage);
    CHECK(refused(
              [&] {
                  llm.generate(kPrompt, drawn(4), [&](const Piece&) {
                      llm.encode("a");
                      return true;
                  });
              },
              "asked it again") == ErrorCode::generation);
    CHECK(llm.generate(kPrompt, drawn(4)).token_ids.size() == 4);  // the model still works after all of these
}

// Another thread can also stop a beam search.
void cancels_beams(LLM& llm) {
    SamplingOptions beams;
    beams.num_beams = 4;
    beams.max_new_tokens = 300;
    beams.ignore_eos = true;
    std::atomic<bool> done = false;
    std::thread other([&] {
        while (!done) {
            llm.cancel();
            std::this_thread::yield();
        }
    });
    const auto answer = llm.generate(kPrompt, beams);
    done = true;
    other.join();
    CHECK(answer.finish_reason == FinishReason::cancelled && answer.token_ids.size() < 300 && !answer.text.empty());
    CHECK(refused([&] { llm.generate(kPrompt, beams, [](const Piece&) { return true; }); },
                  "the answer is known only at its end") == ErrorCode::usage);
}

// Damages one file at a time: missing, truncated, one bit changed; then the manifest itself.
void refuses_damage(const fs::path& folder) {
    const fs::path copy =
        fs::temp_directory_path() / ("ovround-pipeline-" + std::to_string(std::hash<std::string>()(folder.string())));
    const auto fresh = [&] {
        fs::remove_all(copy);
        fs::copy(folder, copy, fs::copy_options::recursive);
    };
    const auto open = [&] { LLM(copy).generate(kPrompt, drawn(1)); };
    for (const char* name : {"openvino_model.bin", "openvino_model.xml", "openvino_tokenizer.xml", "tokenizer.json"}) {
        fresh();
        fs::remove(copy / name);
        CHECK(refused(open, "is missing") == ErrorCode::artifact);
        fresh();
        fs::resize_file(copy / name, fs::file_size(copy / name) - 1);
        CHECK(refused(open, "were written") == ErrorCode::artifact);
        fresh();
        std::fstream file(copy / name, std::ios::in | std::ios::out | std::ios::binary);
        file.seekg(100);
        const char changed = static_cast<char>(file.get() ^ 1);
        file.seekp(100);
        file.put(changed);
        file.close();
        CHECK(refused(open, "has changed since it was written") == ErrorCode::artifact);
    }
    fresh();
    std::ofstream(copy / "ovround.json") << R"({"format_version": 99, "ovround_version": "7"})";
    CHECK(refused(open, "has format 99, written by ovround \"7\"") == ErrorCode::artifact);
    std::ofstream(copy / "ovround.json") << "{";
    CHECK(refused(open, "cannot be read") == ErrorCode::artifact);
    fs::remove(copy / "ovround.json");
    open();  // like a folder of optimum-intel
    fs::remove(copy / "openvino_detokenizer.xml");
    CHECK(refused(open, "needs the tokenizer as a graph") == ErrorCode::artifact);
    fs::remove_all(copy);
}

void cancels(LLM& llm) {
    int pieces = 0;
    const auto by_callback = llm.generate(kPrompt, drawn(32), [&](const Piece&) { return ++pieces < 5; });
    CHECK(by_callback.finish_reason == FinishReason::cancelled && by_callback.token_ids.size() == 5);
    std::atomic<bool> begun = false;
    std::atomic<bool> asked = false;
    std::thread other([&] {
        while (!begun) {
            std::this_thread::yield();
        }
        llm.cancel();
        asked = true;
    });
    const auto by_thread = llm.generate(kPrompt, drawn(32), [&](const Piece&) {
        begun = true;
        while (!asked) {
            std::this_thread::yield();
        }
        return true;
    });
    other.join();
    CHECK(by_thread.finish_reason == FinishReason::cancelled && by_thread.token_ids.size() == 2);
    CHECK(llm.generate(kPrompt, drawn(32)).finish_reason == FinishReason::length);
}

void threads(const fs::path& folder, LLM& llm, const LoadOptions& load) {
    const auto expected = llm.generate(kPrompt, drawn(24)).token_ids;
    std::atomic<int> right = 0;
    const auto ask = [&](LLM& model) {
        for (int time = 0; time < 4; ++time) {
            right += model.generate(kPrompt, drawn(24)).token_ids == expected ? 1 : 0;
        }
    };
    std::thread own([&] {  // a model of its own
        LLM second(folder, load);
        ask(second);
    });
    std::thread shared([&] { ask(llm); });  // one model from two threads: they wait for each other
    ask(llm);
    own.join();
    shared.join();
    CHECK(right == 12);
}

}  // namespace

int main(int count, char** values) {
    CHECK(count == 2 || count == 3);
    LoadOptions load;
    load.exact = true;
    load.threads = 1;
    LLM llm(values[1], load);
    keep_plugins();
    if (count == 3) {  // for the test of the sanitizer: it must find this
        new std::string(values[2]);
        return 0;
    }
    refuses_what_cannot_be(values[1], llm);
    refuses_damage(values[1]);
    cancels(llm);
    cancels_beams(llm);
    threads(values[1], llm, load);
    const int line = check_c_api(values[1]);
    if (line != 0) {
        std::fprintf(stderr, "c_api.c:%d\n", line);
        return 1;
    }
    std::puts("pipeline: passed");
}
