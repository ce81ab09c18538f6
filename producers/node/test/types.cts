import m3agiqa = require("m3agiqa");

export const ids: Promise<string[]> = new m3agiqa.Client("rediss://localhost").submitMany([]);
