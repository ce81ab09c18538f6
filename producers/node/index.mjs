import m3agiqa from "./index.cjs";

export const { Client, QueueFull, QueueUnavailable, RequestConflict, ResultTimeout, VERSION, verify } = m3agiqa;
