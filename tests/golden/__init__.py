"""The format's golden bytes."""
