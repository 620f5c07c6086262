// The endpoints: each answers one request. Paths are given in api_server.cpp.
#pragma once

#include <httplib.h>

#include "serve/service.h"

namespace turboquant {

void answer_chat(Service& service, const httplib::Request& request, httplib::Response& response);
void answer_completion(Service& service, const httplib::Request& request, httplib::Response& response);
void answer_embeddings(Service& service, const httplib::Request& request, httplib::Response& response);
void answer_tokenize(Service& service, const httplib::Request& request, httplib::Response& response);
void answer_detokenize(Service& service, const httplib::Request& request, httplib::Response& response);
void answer_models(Service& service, httplib::Response& response);
void answer_model(Service& service, const std::string& name, httplib::Response& response);

}  // namespace turboquant
