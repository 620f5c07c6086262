#include "cli/run_command.h"

int main(int argc, char** argv) { return turboquant::run_command(argc, argv); }
