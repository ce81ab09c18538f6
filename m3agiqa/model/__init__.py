"""The network: MiniCPM-Llama3-V-2.5 with one adapter and one xLSTM head per aspect. One file a part."""
