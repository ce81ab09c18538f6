import m3agiqa from "./index.cjs";

export const { Client, QueueFull, ResultTimeout, VERSION, verify } = m3agiqa;
