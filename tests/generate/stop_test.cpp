// Stop strings in a stream of pieces.
#include "generate/stop.h"

#include <gtest/gtest.h>

#include <random>

namespace turboquant {
namespace {

struct Outcome {
  std::vector<std::string> pieces;
  bool found = false;

  std::string text() const {
    std::string all;
    for (const std::string& piece : pieces) all += piece;
    return all;
  }
};

Outcome stream(const std::vector<std::string>& stop, const std::vector<std::string>& pieces) {
  StopStrings strings(stop);
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.pieces.push_back(strings.add(piece));
  outcome.pieces.push_back(strings.finish());
  outcome.found = strings.found();
  return outcome;
}

using Pieces = std::vector<std::string>;

TEST(StopStrings, NothingToStopAt) {
  for (const Pieces& stop : {Pieces{}, Pieces{""}, Pieces{"", ""}}) {
    const Outcome outcome = stream(stop, {"a", "", "bc"});
    EXPECT_EQ(outcome.pieces, (Pieces{"a", "", "bc", ""}));
    EXPECT_FALSE(outcome.found);
  }
}

TEST(StopStrings, InOnePiece) {
  const Outcome outcome = stream({"END"}, {"one ", "two END three", "four"});
  EXPECT_EQ(outcome.pieces, (Pieces{"one ", "two ", "", ""}));
  EXPECT_TRUE(outcome.found);
}

TEST(StopStrings, OverSeveralPieces) {
  const Outcome outcome = stream({"\n\nQ:"}, {"A", "\n", "\n", "Q", ": next"});
  EXPECT_EQ(outcome.pieces, (Pieces{"A", "", "", "", "", ""}));
  EXPECT_TRUE(outcome.found);
}

TEST(StopStrings, HeldTextComesOutWhenItIsNone) {
  const Outcome outcome = stream({"abcd"}, {"xab", "c", "e", "abc"});
  EXPECT_EQ(outcome.pieces, (Pieces{"x", "", "abce", "", "abc"}));
  EXPECT_FALSE(outcome.found);
}

TEST(StopStrings, OverlappingPrefixes) {
  // The text repeats the beginning of the stop string inside itself.
  EXPECT_EQ(stream({"aab"}, {"a", "a", "a", "b"}).text(), "a");
  EXPECT_TRUE(stream({"aab"}, {"a", "a", "a", "b"}).found);
  EXPECT_EQ(stream({"abab!"}, {"ab", "ab", "ab", "!"}).text(), "ab");
  EXPECT_EQ(stream({"aa"}, {"a"}).text(), "a");
}

TEST(StopStrings, SeveralStrings) {
  EXPECT_EQ(stream({"xyz", "b"}, {"abc"}).text(), "a");
  EXPECT_EQ(stream({"c", "b"}, {"abc"}).text(), "a");  // the first in the text, not in the list
  EXPECT_EQ(stream({"bcd", "bx"}, {"ab", "c", "e"}).text(), "abce");
  EXPECT_EQ(stream({"bcd", "c"}, {"ab", "c", "e"}).text(), "ab");  // one inside another: whichever is complete first
  EXPECT_EQ(stream({"hello there", "low"}, {"hel", "lo", "w"}).text(), "hel");
}

TEST(StopStrings, AtTheVeryBeginning) {
  const Outcome outcome = stream({"stop"}, {"stop", "more"});
  EXPECT_EQ(outcome.text(), "");
  EXPECT_TRUE(outcome.found);
}

// Cut anywhere, the text before the first stop string comes out, and a piece never waits longer than it must.
TEST(StopStrings, AnyCut) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 2000; ++trial) {
    const auto word = [&](size_t longest) {
      std::string text;
      for (size_t n = 1 + random() % longest; n > 0; --n) text += static_cast<char>('a' + random() % 2);
      return text;
    };
    const Pieces stop = {word(5), word(5)};
    const std::string text = word(30);
    Pieces pieces;
    for (size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 4));
      at += pieces.back().size();
    }
    // The stop string that is complete first in a stream of single characters, or that begins first in one piece.
    const Outcome outcome = stream(stop, pieces);
    const std::string out = outcome.text();
    const size_t first = std::min(text.find(stop[0]), text.find(stop[1]));
    EXPECT_EQ(outcome.found, first != std::string::npos);
    if (!outcome.found) {
      EXPECT_EQ(out, text);
      continue;
    }
    EXPECT_TRUE(text.starts_with(out));
    const auto stops_here = [&](const std::string& s) { return text.compare(out.size(), s.size(), s) == 0; };
    EXPECT_TRUE(stops_here(stop[0]) || stops_here(stop[1])) << text << " " << stop[0] << " " << stop[1] << " " << out;
    for (const std::string& s : stop) EXPECT_EQ(out.find(s), std::string::npos);
  }
}

}  // namespace
}  // namespace turboquant
