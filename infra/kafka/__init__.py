"""Kafka: topics and their messages, clients, and the partition of a stream."""
