"""What a machine can give and what loading takes: for benchmarks and the doctor."""
