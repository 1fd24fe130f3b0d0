// SPDX-License-Identifier: MPL-2.0

package databricks

import "sync"

// cache holds values decoded from storage entries, by storage key. A change of an entry requires put or drop. The zero value is
// ready to use, and a cache is safe for concurrent use. No lock is held during a load.
type cache[T any] struct {
	mu      sync.RWMutex
	entries map[string]T
	// generation counts drops and puts, so that a load that began before one of them does not cache an outdated value.
	generation uint64
}

// get returns what is remembered, or else what load returns, which is remembered when keep says so and no drop came between.
func (c *cache[T]) get(key string, load func() (value T, keep bool, err error)) (T, error) {
	c.mu.RLock()
	value, ok := c.entries[key]
	before := c.generation
	c.mu.RUnlock()
	if ok {
		return value, nil
	}

	value, keep, err := load()
	if err != nil || !keep {
		return value, err
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	// Of concurrent loads, the first to finish is shared by all.
	if first, ok := c.entries[key]; ok {
		return first, nil
	}
	if c.generation == before {
		if c.entries == nil {
			c.entries = make(map[string]T)
		}
		c.entries[key] = value
	}
	return value, nil
}

// peek returns what is remembered, and loads nothing.
func (c *cache[T]) peek(key string) (T, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	value, ok := c.entries[key]
	return value, ok
}

// drop removes the entry and returns it, if there was one.
func (c *cache[T]) drop(key string) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.entries[key]
	delete(c.entries, key)
	c.generation++
	return value, ok
}

// put replaces the entry.
func (c *cache[T]) put(key string, value T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[string]T)
	}
	c.entries[key] = value
	c.generation++
}
