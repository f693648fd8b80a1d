"""The ground floor: what crosses a wire, as bytes and as values. It knows no socket and no key."""
