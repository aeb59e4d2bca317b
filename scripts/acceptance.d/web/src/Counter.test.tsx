// @vitest-environment jsdom
import { cleanup, fireEvent, render, screen } from '@testing-library/react'
import { afterEach, describe, expect, it } from 'vitest'
import { Counter } from './Counter'

afterEach(cleanup)

describe('Counter', () => {
  it('shows where it starts', () => {
    render(<Counter start={41} />)
    expect(screen.getByRole('button').textContent).toBe('count is 41')
  })

  it('counts clicks', () => {
    render(<Counter start={41} />)
    fireEvent.click(screen.getByRole('button'))
    expect(screen.getByRole('button').textContent).toBe('count is 42')
  })
})
