// SPDX-License-Identifier: MPL-2.0

// Package keylock locks by key, and a wait for a lock ends with its context.
//
// A lock may be held over calls to a remote service that knows no compare-and-set: it holds up only those who want the same
// key, and they can give up. A process that dies takes its locks with it, so nothing that must survive a crash may depend
// on one.
package keylock

import (
	"context"
	"sync"
)

// Map is a set of locks, one for each key. The zero value is ready for use, and a key costs memory only while somebody
// holds its lock or waits for it. A Map must not be copied after first use.
type Map struct {
	mu    sync.Mutex
	locks map[string]*lock
}

type lock struct {
	free chan struct{} // holds one element when nobody has the lock
	n    int           // how many hold it or wait for it
}

// Lock waits for the lock of the key and returns the function that releases it, to be called once. When the context ends
// first, it returns the context's error and holds nothing. Locks aren't reentrant.
func (m *Map) Lock(ctx context.Context, key string) (unlock func(), err error) {
	m.mu.Lock()
	if m.locks == nil {
		m.locks = make(map[string]*lock)
	}
	l := m.locks[key]
	if l == nil {
		l = &lock{free: make(chan struct{}, 1)}
		l.free <- struct{}{}
		m.locks[key] = l
	}
	l.n++
	m.mu.Unlock()

	leave := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if l.n--; l.n == 0 {
			delete(m.locks, key)
		}
	}
	select {
	case <-l.free:
		return func() { l.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// Waiting returns how many hold the lock of the key or wait for it.
func (m *Map) Waiting(key string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.locks[key]; l != nil {
		return l.n
	}
	return 0
}

// Len returns how many keys somebody holds the lock of or waits for.
func (m *Map) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.locks)
}
