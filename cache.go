// SPDX-License-Identifier: MPL-2.0

package databricks

import "sync"

// cache remembers what was decoded from storage entries, by storage key, until drop says that an entry changed. The zero
// value is ready for use. Nothing is locked while a load runs.
type cache[T any] struct {
	mu      sync.RWMutex
	entries map[string]T
	// generation counts drops, so that a load that began before a drop cannot bring the old entry back.
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
	// Two loads may have run at once: the first one to finish is shared by all.
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

// drop forgets the entry and returns it, if there was one.
func (c *cache[T]) drop(key string) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.entries[key]
	delete(c.entries, key)
	c.generation++
	return value, ok
}

// put replaces the entry and returns what it replaced, if anything.
func (c *cache[T]) put(key string, value T) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.entries[key]
	if c.entries == nil {
		c.entries = make(map[string]T)
	}
	c.entries[key] = value
	c.generation++
	return old, ok
}
