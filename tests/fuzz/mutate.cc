// How texts change: by words, as somebody who knows the language but not the rules would; one time
// in four by bytes.
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "ir/check.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t limit);

namespace {

using Random = std::minstd_rand;

template <class T>
const T& any(const std::vector<T>& list, Random& random) {
  return list[random() % list.size()];
}

// Where a word begins and ends.
struct Place {
  size_t begin, end;
};

class Text {
 public:
  explicit Text(std::string text, Random& random) : text_(std::move(text)), random_(random) {}

  void change() {
    switch (random_() % 10) {
      case 0:
        return replace(numbers(), number());
      case 1:
        return replace(numbers(), any(words(numbers()), random_));
      case 2:
        return everywhere();
      case 3:
        return replace(dtypes(), any(kDtypes, random_));
      case 4:
        return replace(references(), any(words(references()), random_));
      case 5:
        return erase_attribute();
      case 6:
        return dimension();
      case 7:
        return line();
      case 8:
        return replace(ops(), any(jax_mps::checked_ops(), random_));
      default:
        return operand();
    }
  }

  const std::string& text() const { return text_; }

 private:
  static inline const std::vector<std::string> kDtypes{"f32", "bf16", "f16", "s32",
                                                       "u32", "u8",   "pred"};
  static inline const std::vector<std::string> kNumbers{"0",
                                                        "1",
                                                        "2",
                                                        "3",
                                                        "4",
                                                        "5",
                                                        "8",
                                                        "16",
                                                        "17",
                                                        "32",
                                                        "63",
                                                        "64",
                                                        "-1",
                                                        "-2",
                                                        "256",
                                                        "257",
                                                        "65535",
                                                        "1073741823",
                                                        "2147483647",
                                                        "2147483648",
                                                        "4294967296",
                                                        "-2147483649",
                                                        "281474976710656",
                                                        "1152921504606846976",
                                                        "9223372036854775807",
                                                        "-9223372036854775808",
                                                        "1e40",
                                                        "nan",
                                                        "true",
                                                        "[]"};

  const std::string& number() { return any(kNumbers, random_); }

  // The words of a class, maximal runs of its characters that begin as it says.
  template <class B, class C>
  std::vector<Place> places(const B& begins, const C& continues) const {
    std::vector<Place> found;
    for (size_t i = 0; i < text_.size(); i++) {
      if (!begins(i)) continue;
      size_t end = i + 1;
      while (end < text_.size() && continues(text_[end])) end++;
      found.push_back({i, end});
      i = end - 1;
    }
    return found;
  }
  static bool digit(char c) { return std::isdigit(static_cast<unsigned char>(c)); }
  static bool letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_'; }
  char before(size_t i) const { return i ? text_[i - 1] : '\n'; }

  std::vector<Place> numbers() const {
    return places(
        [&](size_t i) {
          char b = before(i);
          bool starts =
              digit(text_[i]) || (text_[i] == '-' && i + 1 < text_.size() && digit(text_[i + 1]));
          return starts && !digit(b) && !letter(b) && b != '%' && b != '.' && b != '-';
        },
        digit);
  }
  std::vector<Place> references() const {
    return places([&](size_t i) { return text_[i] == '%'; }, digit);
  }
  std::vector<Place> dtypes() const {
    std::vector<Place> found = places([&](size_t i) { return letter(text_[i]); },
                                      [](char c) { return letter(c) || digit(c); });
    std::erase_if(found,
                  [&](Place p) { return std::ranges::find(kDtypes, word(p)) == kDtypes.end(); });
    return found;
  }
  std::vector<Place> ops() const {
    std::vector<Place> found = places([&](size_t i) { return letter(text_[i]); },
                                      [](char c) { return letter(c) || digit(c); });
    std::erase_if(found, [&](Place p) { return p.end >= text_.size() || text_[p.end] != '('; });
    return found;
  }
  std::string word(Place p) const { return text_.substr(p.begin, p.end - p.begin); }
  std::vector<std::string> words(const std::vector<Place>& places) const {
    std::vector<std::string> found;
    for (Place p : places) found.push_back(word(p));
    if (found.empty()) found.push_back("0");
    return found;
  }

  void replace(const std::vector<Place>& places, const std::string& by) {
    if (places.empty()) return;
    Place p = any(places, random_);
    text_.replace(p.begin, p.end - p.begin, by);
  }

  // One number, or one dtype, in all of its places: what agreed still does.
  void everywhere() {
    bool of_dtypes = random_() % 4 == 0;
    std::vector<Place> found = of_dtypes ? dtypes() : numbers();
    if (found.empty()) return;
    std::string old = word(any(found, random_)), by = of_dtypes ? any(kDtypes, random_) : number();
    for (size_t i = found.size(); i-- > 0;)
      if (word(found[i]) == old) text_.replace(found[i].begin, found[i].end - found[i].begin, by);
  }

  void erase_attribute() {
    std::vector<Place> found =
        places([&](size_t i) { return letter(text_[i]) && !letter(before(i)); },
               [](char c) { return letter(c) || digit(c); });
    std::erase_if(found, [&](Place p) { return p.end >= text_.size() || text_[p.end] != '='; });
    if (found.empty()) return;
    Place p = any(found, random_);
    int depth = 0;
    while (p.end < text_.size()) {
      char c = text_[p.end];
      depth += (c == '[') - (c == ']');
      if (c == '\n' || c == '}' || (c == ',' && depth == 0)) break;
      p.end++;
    }
    if (p.end + 1 < text_.size() && text_[p.end] == ',') p.end += 2;
    text_.erase(p.begin, p.end - p.begin);
  }

  // An axis, or an item of a list, goes or comes.
  void dimension() {
    std::vector<Place> found = numbers();
    if (found.empty()) return;
    Place p = any(found, random_);
    if (random_() % 2) {
      text_.insert(p.begin, number() + ",");
    } else {
      if (p.end < text_.size() && text_[p.end] == ',') p.end++;
      text_.erase(p.begin, p.end - p.begin);
    }
  }

  void line() {
    std::vector<std::string> lines(1);
    for (char c : text_) {
      if (c == '\n')
        lines.emplace_back();
      else
        lines.back() += c;
    }
    size_t a = random_() % lines.size(), b = random_() % lines.size();
    switch (random_() % 3) {
      case 0:
        std::swap(lines[a], lines[b]);
        break;
      case 1:
        lines.erase(lines.begin() + a);
        break;
      default:
        lines.insert(lines.begin() + b, std::string(lines[a]));
    }
    text_.clear();
    for (size_t i = 0; i < lines.size(); i++) text_ += (i ? "\n" : "") + lines[i];
  }

  // An operand, or a result, goes or comes.
  void operand() {
    std::vector<Place> found = references();
    if (found.empty()) return;
    Place p = any(found, random_);
    if (random_() % 2) {
      text_.insert(p.begin, any(words(found), random_) + ", ");
    } else {
      while (p.end < text_.size() && (text_[p.end] == ',' || text_[p.end] == ' ')) p.end++;
      text_.erase(p.begin, p.end - p.begin);
    }
  }

  std::string text_;
  Random& random_;
};

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t limit, unsigned seed) {
  Random random(seed);
  if (size == 0 || random() % 4 == 0) return LLVMFuzzerMutate(data, size, limit);
  Text text(std::string(reinterpret_cast<char*>(data), size), random);
  for (unsigned changes = 1 + random() % 3; changes > 0; changes--) text.change();
  size_t length = std::min(text.text().size(), limit);
  std::memcpy(data, text.text().data(), length);
  return length;
}
