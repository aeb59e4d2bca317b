import { mkdtemp, readFile, rename, rm, watch, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

describe('the file system below', () => {
  it('reads back what was written, across a rename', async () => {
    const dir = await mkdtemp(join(process.cwd(), 'test-'))
    try {
      const names = Array.from({ length: 200 }, (_, i) => join(dir, `file-${i}`))
      await Promise.all(names.map((name) => writeFile(name, name.repeat(50))))
      await Promise.all(names.map((name) => rename(name, `${name}.moved`)))
      const read = await Promise.all(names.map((name) => readFile(`${name}.moved`, 'utf8')))
      expect(read).toEqual(names.map((name) => name.repeat(50)))
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  it('tells a watcher of a new file', async () => {
    const dir = await mkdtemp(join(process.cwd(), 'test-'))
    const stop = new AbortController()
    try {
      const events = watch(dir, { signal: stop.signal })[Symbol.asyncIterator]()
      const seen = events.next()
      await writeFile(join(dir, 'news'), 'x')
      expect((await seen).value?.filename).toBe('news')
    } finally {
      stop.abort()
      await rm(dir, { recursive: true })
    }
  })
})
