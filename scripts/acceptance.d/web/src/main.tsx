import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { Counter } from './Counter'
import './style.css'

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <Counter start={0} />
  </StrictMode>,
)
