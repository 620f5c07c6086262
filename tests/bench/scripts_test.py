"""What the scripts of bench/ conclude from numbers: which instruction counts are out of bounds, which rounds count."""

import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import instruction_counts
import peers


class InstructionCounts(unittest.TestCase):
    def compared(self, counted, recorded={"a/scalar": 1000, "a/avx2": 100}):
        wrong, notes = instruction_counts.compare(recorded, counted, 0.02)
        return [line.split(":")[0] for line in wrong], [line.split(":")[0] for line in notes]

    def test_within_the_tolerance(self):
        self.assertEqual(self.compared({"a/scalar": 1020, "a/avx2": 98}), ([], []))

    def test_above_it(self):
        self.assertEqual(self.compared({"a/scalar": 1021, "a/avx2": 100}), (["a/scalar"], []))

    def test_below_it_is_worth_recording(self):
        self.assertEqual(self.compared({"a/scalar": 1000, "a/avx2": 97}), ([], ["a/avx2"]))

    def test_cases_come_and_go(self):
        self.assertEqual(self.compared({"a/scalar": 1000, "b/avx2": 1}), (["b/avx2", "a/avx2"], []))

    def test_a_level_that_the_processor_lacks(self):
        self.assertEqual(self.compared({"a/scalar": 1000}), ([], ["no counts of avx2"]))


def a_round(int8, ours, theirs):
    return {
        "ours": {"memory_gb_s": 30.0, "int8_gop_s": int8, "decode_tok_s": ours, "prefill_tok_s": 100.0},
        "theirs": {"decode_tok_s": theirs, "prefill_tok_s": 50.0, "version": "1"},
    }


class Peers(unittest.TestCase):
    def test_slow_rounds_do_not_count(self):
        rounds = [a_round(900, 30, 20), a_round(500, 3, 20), a_round(890, 40, 10), a_round(880, 50, 30)]
        medians = peers.medians(peers.counting(rounds, 800))
        self.assertEqual(medians["ours"]["decode_tok_s"], 40)
        self.assertEqual(medians["theirs"]["decode_tok_s"], 20)
        self.assertEqual(
            peers.row("median", medians),
            "| median | 30.0 GB/s | 890 GOP/s | 40.0 tok/s | 20.0 tok/s | 2.00 | 100.0 tok/s | 50.0 tok/s | 2.00 |",
        )

    def test_unless_all_are_slow(self):
        rounds = [a_round(500, 30, 20), a_round(400, 10, 20)]
        self.assertEqual(peers.counting(rounds, 800), rounds)
        self.assertEqual(peers.medians(rounds)["ours"]["decode_tok_s"], 20)

    def test_rows_of_turboquant_bench(self):
        rows = [
            {"name": "memory read", "tok_s": 0, "gb_s": 30.5, "gop_s": 0},
            {"name": "int8 multiply-add", "tok_s": 0, "gb_s": 0, "gop_s": 900},
            {"name": "llama-3.2-1b decode", "tok_s": 40, "gb_s": 26, "gop_s": 0},
            {"name": "llama-3.2-1b prefill 512", "tok_s": 300, "gb_s": 0, "gop_s": 700},
        ]
        read = peers.read_bench(rows)
        self.assertEqual([read["memory_gb_s"], read["int8_gop_s"]], [30.5, 900])
        self.assertEqual([read["decode_tok_s"], read["prefill_tok_s"]], [40, 300])
        self.assertAlmostEqual(read["bytes"], 0.65e9)
        with self.assertRaises(SystemExit):
            peers.read_bench(rows[:3])


if __name__ == "__main__":
    unittest.main()
