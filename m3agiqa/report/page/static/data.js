// What the files of data hand over: first the page's facts, then lists of images.
"use strict";

const Data = {
  about: null,
  items: [],

  /** Called by each file of data with JSON. */
  take(text) {
    const content = JSON.parse(text);
    if (!Array.isArray(content)) {
      this.about = content;
      return;
    }
    for (const item of content) {
      item.at ??= "";
      this.items.push(item);
    }
  },
};
