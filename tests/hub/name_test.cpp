#include <gtest/gtest.h>

#include "hub/cache.h"
#include "hub/http.h"
#include "hub/repository.h"

namespace turboquant {
namespace {

TEST(HubName, RepositoriesAndFiles) {
  const auto model = parse_hub_name("HuggingFaceTB/SmolLM2-135M_x.y");
  ASSERT_TRUE(model);
  EXPECT_EQ(model->repository, "HuggingFaceTB/SmolLM2-135M_x.y");
  EXPECT_EQ(model->file, "");
  const auto file = parse_hub_name("org/name/Q4 K/model.gguf");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->repository, "org/name");
  EXPECT_EQ(file->file, "Q4 K/model.gguf");
}

TEST(HubName, Others) {
  for (const char* text :
       {"", "name", "/org/name", "org/", "org//name", "./name", "../name", "org/..", "-org/name", "org/na me",
        "org/name/model.bin", "org/name/", "org/name/../model.gguf", "org/name//model.gguf", "org/a--b", "~/name",
        "org/name\n", "org/name/a\\b.gguf", "C:/models"})
    EXPECT_FALSE(parse_hub_name(text)) << text;
  EXPECT_FALSE(parse_hub_name("org/" + std::string(97, 'a')));
}

TEST(HubRevision, StaysInItsFolder) {
  EXPECT_EQ(Repository({}, "org/name", "").revision(), "main");
  EXPECT_EQ(Repository({}, "org/name", "refs/pr/1").revision(), "refs/pr/1");
  for (const char* text : {"../main", "/main", "a/../../b", "a//b", "a\nb", "."})
    EXPECT_THROW(Repository({}, "org/name", text), UsageError) << text;
}

TEST(HubUrl, Join) {
  const std::string base = "https://Hub.example:8080/a/b?c=/d";
  EXPECT_EQ(origin_of(base), "https://hub.example:8080");
  EXPECT_EQ(join_url(base, "https://other/x?y"), "https://other/x?y");
  EXPECT_EQ(join_url(base, "//other/x"), "https://other/x");
  EXPECT_EQ(join_url(base, "/x?u=http://y"), "https://hub.example:8080/x?u=http://y");
  EXPECT_EQ(join_url(base, "x/y"), "https://Hub.example:8080/a/x/y");
  EXPECT_EQ(join_url("http://host", "x"), "http://host/x");
  EXPECT_NE(origin_of("http://host:1"), origin_of("http://host:2"));
  EXPECT_NE(origin_of("http://host"), origin_of("https://host"));
}

TEST(HubUrl, Encode) {
  EXPECT_EQ(url_encode("refs/pr 1%"), "refs%2Fpr%201%25");
  EXPECT_EQ(url_encode("a/b\xc3\xa9.gguf", "/"), "a/b%C3%A9.gguf");
}

TEST(HubUrl, Numbers) {
  EXPECT_EQ(parse_number("1234"), 1234U);
  for (const char* text : {"", "-1", "1x", " 1", "99999999999999999999"}) EXPECT_FALSE(parse_number(text)) << text;
}

TEST(HubCache, Commits) {
  EXPECT_TRUE(is_commit(std::string(40, 'a')));
  EXPECT_FALSE(is_commit(std::string(40, 'A')));
  EXPECT_FALSE(is_commit(std::string(39, 'a')));
}

}  // namespace
}  // namespace turboquant
